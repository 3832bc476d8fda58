"""The exact answers held against independent computations: quadrature, finite differences, simulation, enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from wassgrid.case import Case
from wassgrid.problem.exact import (
    AutoRegression,
    DoubleWell,
    FiniteChain,
    HeatBathPendulum,
    Manufactured,
    NextState,
    OscillatorRing,
    ScalarLQ,
    TorusRegulator,
    VectorLQ,
    grassmann_taksar_heyman,
)

# Gauss-Hermite nodes and weights of the standard normal law, exact to degree 119
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()

SCALAR_PROBLEMS = [
    ScalarLQ(),
    ScalarLQ(a=1.3, b=0.7, q=2.0, r=0.5, noise=0.4),
    ScalarLQ(a=0.6, b=-1.2, q=0.3, r=1.5, noise=1.7),
]


def stable_gain(problem: ScalarLQ) -> float:
    """A gain away from the optimum whose closed loop is stable."""
    return problem.gain + 0.25 / problem.b


def central_difference(function, point: float, step: float = 1e-4) -> float:
    """Fourth-order first derivative."""
    one, two = (function(point + k * step) - function(point - k * step) for k in (1, 2))
    return (8 * one - two) / (12 * step)


@pytest.mark.parametrize("problem", SCALAR_PROBLEMS)
class TestScalarLQ:
    def test_optimum_solves_the_bellman_equation(self, problem):
        states = np.linspace(-3, 3, 7)[:, None]
        next_states = problem.a * states - problem.b * problem.gain * states + problem.noise * NODES
        cost = problem.q * states**2 + problem.r * (problem.gain * states) ** 2
        value = problem.riccati * states**2
        residual = cost[:, 0] + (problem.riccati * next_states**2) @ WEIGHTS - problem.objective - value[:, 0]
        assert np.abs(residual).max() < 1e-12
        assert problem.improved_gain(problem.riccati) == problem.gain
        slopes = problem.action_gradient(states, -problem.gain * states, problem.gain)
        assert np.abs(slopes).max() < 1e-12

    def test_agrees_with_the_vector_problem(self, problem):
        one = np.eye(1)
        vector = VectorLQ(problem.a * one, problem.b * one, problem.q * one, problem.r * one, problem.noise**2 * one)
        assert problem.objective == pytest.approx(vector.objective, rel=1e-12)
        assert problem.gain == pytest.approx(vector.gain.item(), rel=1e-12)
        gain = stable_gain(problem)
        assert problem.policy_objective(gain) == pytest.approx(vector.policy_objective([[gain]]), rel=1e-12)

    def test_policy_cost_against_a_simulation_with_two_point_actions(self, problem):
        gain, variance = stable_gain(problem), 0.3
        rng = np.random.default_rng(7)
        state, costs = np.zeros(20_000), []
        for step in range(260):
            action = -gain * state + math.sqrt(variance) * rng.choice([-1.0, 1.0], state.size)
            if step >= 60:
                costs.append(problem.q * state**2 + problem.r * action**2)
            state = problem.a * state + problem.b * action + problem.noise * rng.standard_normal(state.size)
        chains = np.mean(costs, axis=0)
        error = np.mean(chains) - problem.policy_objective(gain, variance)
        assert abs(error) < 4 * np.std(chains) / math.sqrt(chains.size)
        assert abs(error) < 0.01 * problem.policy_objective(gain, variance)

    def test_action_gradient_is_the_derivative_of_q(self, problem):
        gain, state = stable_gain(problem), 0.8
        value = problem.policy_value(gain)

        def q(action):
            following = problem.a * state + problem.b * action + problem.noise * NODES
            return problem.q * state**2 + problem.r * action**2 + WEIGHTS @ (value * following**2)

        slope = problem.action_gradient(state, 0.37, gain)
        assert slope == pytest.approx(central_difference(q, 0.37), rel=1e-9)
        assert problem.action_curvature(gain) == pytest.approx(
            central_difference(lambda u: problem.action_gradient(state, u, gain), 0.37), rel=1e-9
        )

    @pytest.mark.parametrize("variance", [0.0, 0.5])
    def test_derivatives_of_the_objective(self, problem, variance):
        gain = stable_gain(problem)
        slope = problem.gain_derivative(gain, variance)
        assert slope == pytest.approx(central_difference(lambda k: problem.policy_objective(k, variance), gain), rel=1e-8)
        curvature = central_difference(lambda k: problem.gain_derivative(k, variance), gain)
        assert sum(problem.hessian_parts(gain, variance)) == pytest.approx(curvature, rel=1e-8)

    def test_transport_curvature_vanishes_at_the_optimum(self, problem):
        local, transport = problem.hessian_parts(problem.gain)
        assert abs(transport) < 1e-12 * local

    def test_hewer_errors_are_squared(self, problem):
        gain, errors = stable_gain(problem), []
        for _ in range(4):
            errors.append(abs(gain - problem.gain))
            gain = problem.hewer_step(gain)
        ratios = [after / before**2 for before, after in itertools.pairwise(errors) if after > 1e-10]
        assert len(ratios) >= 2
        assert max(ratios) < 3 * min(ratios)

    def test_gradient_flow(self, problem):
        gain, variance = stable_gain(problem), 0.4
        times = np.linspace(0.0, 6 / problem.decay_rate, 25)
        gains, variances = problem.gradient_flow(times, gain, variance)
        assert (gains[0], variances[0]) == (gain, variance)
        # particles u = -K x + xi move with -dQ/du: -K' x = -dQ/du at u = -K x, and v' = -2 (d^2Q/du^2) v
        step = 1e-4
        early_gains, early_variances = problem.gradient_flow([0.0, step, 2 * step], gain, variance)
        gain_rate = (4 * early_gains[1] - 3 * early_gains[0] - early_gains[2]) / (2 * step)
        assert gain_rate == pytest.approx(problem.action_gradient(1.0, -gain, gain), rel=1e-4)
        variance_rate = (4 * early_variances[1] - 3 * early_variances[0] - early_variances[2]) / (2 * step)
        assert variance_rate == pytest.approx(-2 * problem.action_curvature(gain) * variance, rel=1e-4)
        objectives = [problem.policy_objective(k, v) for k, v in zip(gains, variances, strict=True)]
        assert np.all(np.diff(objectives) < 0)

    def test_energy_gap_decays_at_the_stated_rate(self, problem):
        times = np.array([0.0, 3.0, 4.0]) / problem.decay_rate * 2
        gains, variances = problem.gradient_flow(times, stable_gain(problem), 0.4)
        gaps = [problem.policy_objective(k, v) - problem.objective for k, v in zip(gains, variances, strict=True)]
        rate = math.log(gaps[1] / gaps[2]) / (times[2] - times[1])
        assert rate == pytest.approx(problem.decay_rate, rel=0.02)

    def test_refuses_an_unstable_gain(self, problem):
        with pytest.raises(ValueError, match="unstable"):
            problem.policy_value((problem.a + 1.5) / problem.b)


def random_vector_problem(seed: int, states: int = 3, actions: int = 2, rank: int = 2) -> VectorLQ:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((states, rank))
    return VectorLQ(
        state_matrix=0.6 * rng.standard_normal((states, states)),
        action_matrix=rng.standard_normal((states, actions)),
        state_cost=np.diag(rng.uniform(0.5, 2.0, states)),
        action_cost=np.diag(rng.uniform(0.5, 2.0, actions)),
        noise_covariance=factor @ factor.T,
    )


class TestVectorLQ:
    @pytest.mark.parametrize("seed", range(3))
    def test_gain_is_a_minimum_of_the_policy_objective(self, seed):
        problem = random_vector_problem(seed)
        assert problem.policy_objective(problem.gain) == pytest.approx(problem.objective, rel=1e-10)
        direction = np.random.default_rng(seed + 10).standard_normal(problem.gain.shape)
        raised = [problem.policy_objective(problem.gain + t * direction) - problem.objective for t in (-1e-3, 1e-3)]
        assert min(raised) > 0
        assert abs(raised[1] - raised[0]) < 0.02 * sum(raised)

    @given(seed=st.integers(0, 10_000), rank=st.integers(1, 4))
    @settings(max_examples=40, deadline=None)
    def test_conditional_noise_has_the_covariance(self, seed, rank):
        problem = random_vector_problem(seed, states=4, rank=rank)
        regression, deviation = problem.conditional_noise()
        factor = np.linalg.solve(np.eye(4) - regression, np.diag(deviation))
        scale = np.abs(problem.noise_covariance).max()
        assert np.abs(factor @ factor.T - problem.noise_covariance).max() < 1e-6 * scale
        assert np.all(np.triu(regression) == 0)

    def test_conditional_noise_of_a_singular_covariance(self):
        # in the ring the positions follow the momenta: one noise source for each pair
        _, deviation = OscillatorRing(sites=3).linear_quadratic.conditional_noise()
        assert list(deviation > 0) == [True] * 3 + [False] * 3

    def test_unstable_loop_is_refused(self):
        problem = random_vector_problem(0)
        with pytest.raises(ValueError, match="spectral radius"):
            problem.covariance(problem.gain + 10)


class TestOscillatorRing:
    def test_matrices_repeat_the_equations_of_motion(self):
        ring = OscillatorRing(sites=5, damping=0.3, coupling=0.7, stiffness=1.4)
        rng = np.random.default_rng(3)
        q, p, u = rng.standard_normal((3, 5))
        pull = [-ring.stiffness * q[i] + ring.coupling * (q[(i + 1) % 5] + q[i - 1] - 2 * q[i]) for i in range(5)]
        p_next = [p[i] + ring.step * (pull[i] - ring.damping * p[i] + u[i]) for i in range(5)]
        q_next = q + ring.step * np.array(p_next)
        linear = ring.linear_quadratic
        stepped = linear.state_matrix @ np.concatenate([q, p]) + linear.action_matrix @ u
        assert np.allclose(stepped, np.concatenate([q_next, p_next]), rtol=0, atol=1e-14)
        kick = ring.noise**2 * ring.step
        assert np.allclose(linear.noise_covariance[5:, 5:], kick * np.eye(5), atol=1e-16)
        assert np.allclose(linear.noise_covariance[:5, 5:], ring.step * kick * np.eye(5), atol=1e-16)

    def test_simulated_cost(self):
        ring = OscillatorRing(sites=6)
        linear = ring.linear_quadratic
        rng = np.random.default_rng(5)
        q, p = np.zeros((2, 4000, 6))
        costs = []
        for step in range(500):
            u = -np.concatenate([q, p], axis=1) @ linear.gain.T
            if step >= 150:
                costs.append(np.mean(q**2 + p**2 + ring.action_cost * u**2, axis=1))
            neighbours = np.roll(q, 1, axis=1) + np.roll(q, -1, axis=1)
            force = -ring.stiffness * q + ring.coupling * (neighbours - 2 * q) - ring.damping * p + u
            p = p + ring.step * force + ring.noise * math.sqrt(ring.step) * rng.standard_normal(p.shape)
            q = q + ring.step * p
        chains = np.mean(costs, axis=0)
        error = chains.mean() - ring.objective
        assert abs(error) < 4 * chains.std() / math.sqrt(chains.size) < 0.005 * ring.objective


class TestTorusRegulator:
    problem = TorusRegulator(k=0.8, r=1.7, noise=0.9, offset=0.4)

    @pytest.mark.parametrize("gain", [0.0, 0.3, 0.8, 5.0])
    def test_density_and_cost_by_quadrature(self, gain):
        problem = self.problem
        mass, _ = quad(lambda x: problem.density([x], gain), -math.pi, math.pi, epsabs=1e-13)
        assert mass == pytest.approx(1.0, abs=1e-12)

        def rate(x):
            running = (problem.k * math.sin(x)) ** 2 - problem.noise**2 * problem.k * math.cos(x)
            return problem.offset + 0.5 * problem.r * (running + (gain * math.sin(x)) ** 2)

        mean, _ = quad(lambda x: rate(x) * problem.density([x], gain), -math.pi, math.pi, epsabs=1e-13)
        assert problem.policy_objective(gain) == pytest.approx(mean, rel=1e-11)

    def test_density_has_no_probability_flux(self):
        problem = self.problem
        for x in (-2.0, 0.3, 1.4):
            slope = central_difference(lambda y: float(problem.density([y])), x)
            flux = problem.optimal_actions(x) * problem.density([x]) - 0.5 * problem.noise**2 * slope
            assert abs(flux) < 1e-10

    def test_optimal_gain_minimises_the_cost(self):
        problem = self.problem
        assert problem.policy_objective(problem.k) == pytest.approx(problem.objective, rel=1e-13)
        assert abs(central_difference(problem.policy_objective, problem.k)) < 1e-9
        assert min(problem.policy_objective(problem.k + d) for d in (-0.3, -0.01, 0.01, 0.3)) > problem.objective

    def test_products(self):
        one, three = self.problem, TorusRegulator(3, 0.8, 1.7, 0.9, 0.4)
        points = np.array([[0.2, -1.0, 2.5]])
        assert three.density(points) == pytest.approx(np.prod(one.density(points.T)), rel=1e-13)
        raised = one.policy_objective(0.1) - one.objective
        assert three.policy_objective(0.1) == pytest.approx(three.objective + 3 * raised, rel=1e-13)

    def test_small_noise_does_not_overflow(self):
        assert np.isfinite(TorusRegulator(noise=0.02).density([0.0]))


class TestAutoRegression:
    def test_value_solves_the_poisson_equation(self):
        problem = AutoRegression(0.83, 0.6)
        states = np.linspace(-2, 2, 9)
        following = problem.value(problem.factor * states[:, None] + problem.noise * NODES) @ WEIGHTS
        assert np.abs(states**2 - problem.variance + following - problem.value(states)).max() < 1e-12
        mean, _ = quad(lambda x: problem.value(x) * problem.density(x), -15, 15, epsabs=1e-13)
        assert abs(mean) < 1e-10

    def test_hermite_functions_are_eigenfunctions(self):
        problem = AutoRegression(0.83, 0.6)
        states = np.linspace(-2, 2, 9)
        for order, eigenvalue in enumerate(problem.eigenvalues(5)):
            hermite = np.polynomial.hermite_e.HermiteE.basis(order)
            scale = math.sqrt(problem.variance)
            following = hermite((problem.factor * states[:, None] + problem.noise * NODES) / scale) @ WEIGHTS
            assert np.abs(following - eigenvalue * hermite(states / scale)).max() < 1e-12


class TestHeatBathPendulum:
    problem = HeatBathPendulum(gravity=1.3, damping=0.4, noise=0.9)

    def test_density_solves_the_fokker_planck_equation(self):
        problem = self.problem
        for theta, omega in [(0.4, -0.7), (2.0, 1.1), (-1.0, 0.2)]:
            transport = omega * central_difference(lambda y, w=omega: float(problem.density(y, w)), theta)

            def momentum_flux(w, angle=theta):
                density = problem.density(angle, w)
                force = problem.gravity * math.sin(angle) + problem.damping * w
                slope = central_difference(lambda y: float(problem.density(angle, y)), w)
                return -force * density - 0.5 * problem.noise**2 * slope

            assert abs(transport + central_difference(momentum_flux, omega)) < 1e-8

    def test_normalisation_and_energy(self):
        problem = self.problem
        theta = np.linspace(-math.pi, math.pi, 400, endpoint=False)[:, None]
        omega = np.linspace(-10, 10, 2001)[None, :]
        mass = problem.density(theta, omega) * (2 * math.pi / 400) * 0.01
        assert mass.sum() == pytest.approx(1.0, rel=1e-10)
        energy = 0.5 * omega**2 + problem.gravity * (1 - np.cos(theta))
        assert (mass * energy).sum() == pytest.approx(problem.mean_energy, rel=1e-10)


class TestDoubleWell:
    def test_density_is_normalised_and_without_flux(self):
        problem = DoubleWell(noise=0.5)
        mass, _ = quad(lambda x: float(problem.density(x)), -4, 4, epsabs=1e-13, limit=200)
        assert mass == pytest.approx(1.0, rel=1e-10)
        for x in (-1.2, 0.1, 0.8):
            slope = central_difference(lambda y: float(problem.density(y)), x)
            assert abs((x - x**3) * problem.density(x) - 0.5 * problem.noise**2 * slope) < 1e-9

    def test_relaxation_against_the_spectrum(self):
        problem = DoubleWell()
        states = np.linspace(-2, 2, 241)
        means = states + problem.step * (states - states**3)
        weights = np.exp(-0.5 * (states - means[:, None]) ** 2 / (problem.noise**2 * problem.step))
        transition = weights / weights.sum(axis=1, keepdims=True)
        second = np.sort(np.linalg.eigvals(transition).real)[-2]
        # Kramers' formula is the leading order in the noise, here right to about a tenth
        assert (1 - second) / problem.step == pytest.approx(problem.kramers_rate, rel=0.2)
        # and the law of the chain approaches the diffusion's density with the step
        law = grassmann_taksar_heyman(transition)
        assert np.abs(law - problem.density(states) * (states[1] - states[0])).sum() < 0.05


class TestFiniteChain:
    def test_taxi_gain_by_enumeration(self):
        chain = FiniteChain.howard_taxi()
        gains = {}
        for actions in itertools.product(range(3), range(2), range(3)):
            transition, reward = chain.closed_loop(actions)
            assert np.allclose(transition.sum(axis=1), 1, rtol=0, atol=1e-15)
            gains[actions] = float(grassmann_taksar_heyman(transition) @ reward)
        best = max(gains, key=gains.__getitem__)
        assert best == chain.best_actions
        assert gains[best] == pytest.approx(chain.gain, rel=1e-15)
        assert chain.gain == pytest.approx(13.344537815126046, rel=1e-15)


class TestGrassmannTaksarHeyman:
    @given(seed=st.integers(0, 10_000), size=st.integers(1, 12))
    @settings(max_examples=40, deadline=None)
    def test_is_stationary(self, seed, size):
        transition = np.random.default_rng(seed).dirichlet(np.full(size, 0.3), size) * 0.9 + 0.1 / size
        law = grassmann_taksar_heyman(transition)
        assert law.sum() == pytest.approx(1.0, abs=1e-15)
        assert np.abs(law @ transition - law).max() < 1e-15

    def test_full_relative_accuracy_on_a_birth_and_death_chain(self):
        # detailed balance: law[k+1] / law[k] = up / down, down to 1e-120
        up, down, size = 1e-7, 1e-3, 31
        transition = np.diag(np.full(size - 1, up), 1) + np.diag(np.full(size - 1, down), -1)
        transition += np.diag(1 - transition.sum(axis=1))
        exact = (up / down) ** np.arange(size)
        law = grassmann_taksar_heyman(transition)
        assert np.max(np.abs(law / (exact / exact.sum()) - 1)) < 1e-13

    def test_reducible_chain_is_refused(self):
        with pytest.raises(ValueError, match="reducible"):
            grassmann_taksar_heyman(np.eye(3))


def circle_next(state, action, noise):
    (x,), (a,) = state, action
    return [x + 0.3 * np.sin(x) + 0.5 * a + (0.4 + 0.1 * np.cos(x)) * noise[0]]


def pendulum_next(state, action, noise, angle_noise=0.0):
    (theta, omega), (a,) = state, action
    omega = 0.9 * omega + 0.1 * (5 * np.sin(theta) + 3 * a) + 0.5 * noise[1]
    return [theta + 0.1 * omega + angle_noise * noise[0], omega]


def noisy_pendulum_next(state, action, noise):
    return pendulum_next(state, action, noise, angle_noise=0.2)


def correlated_next(state, action, noise):
    (x, y), (u, v) = state, action
    y_next = 0.7 * y - 0.1 * x + v + 0.6 * noise[1]
    return [0.8 * x + 0.2 * y + u + 0.5 * noise[0] + 0.3 * y_next, y_next]


MANUFACTURED = {
    "circle": (Manufactured.circle(), circle_next),
    "pendulum": (Manufactured.pendulum(), pendulum_next),
    "noisy pendulum": (Manufactured.pendulum(angle_noise=0.2), noisy_pendulum_next),
    "correlated": (Manufactured.correlated(), correlated_next),
}
FUNCTIONS = {"sin": np.sin, "cos": np.cos, "exp": np.exp, "sqrt": np.sqrt, "pi": np.pi}


@pytest.mark.parametrize("name", MANUFACTURED)
class TestManufactured:
    """The equations of motion are written out once more above, in NumPy, and expectations taken by quadrature."""

    def sides(self, name, state, action):
        """c(x, a) as stated, and lambda + h(x) - E h(x') + W(a - g(x)) with E by Gauss-Hermite quadrature."""
        problem, step = MANUFACTURED[name]
        dimensions = len(problem.states)
        noise = np.meshgrid(*[NODES] * dimensions, indexing="ij")
        weights = np.prod(np.meshgrid(*[WEIGHTS] * dimensions, indexing="ij"), axis=0)
        following = np.stack(np.broadcast_arrays(*step(state, action, noise)), axis=-1)
        expected = float(np.sum(weights * problem.value_at(following)))
        offsets = np.asarray(action) - problem.optimal_actions(state)
        names = dict(zip((*problem.state_names, *problem.actions), (*state, *action), strict=True))
        stated = eval(problem.stage_cost, {**FUNCTIONS, **problem.parameters, **names})
        return stated, problem.objective + float(problem.value_at(state)) - expected + float(problem.excess(offsets))

    def test_stage_cost_against_quadrature(self, name):
        problem, _ = MANUFACTURED[name]
        rng = np.random.default_rng(11)
        for _ in range(6):
            state = rng.uniform(-2, 2, len(problem.states))
            stated, expected = self.sides(name, state, rng.uniform(-1, 1, len(problem.actions)))
            assert stated == pytest.approx(expected, rel=1e-11, abs=1e-11)

    def test_well_has_its_minimum_at_zero(self, name):
        problem, _ = MANUFACTURED[name]
        zero = np.zeros(len(problem.actions))
        offsets = np.random.default_rng(2).uniform(-3, 3, (500, len(problem.actions)))
        assert problem.excess(zero) == 0
        assert problem.excess(offsets).min() > 0
        direction = np.ones(len(problem.actions))
        slope = central_difference(lambda t: float(problem.excess(0.7 * direction + t * direction)), 0.0)
        assert problem.action_gradient(0.7 * direction).sum() == pytest.approx(slope, rel=1e-10)


class TestManufacturedErrors:
    def test_states_that_follow_in_a_cycle(self):
        states = (
            NextState("x", "x", (-1, 1), "1", follows=(("y", "1"),)),
            NextState("y", "y", (-1, 1), "1", follows=(("x", "1"),)),
        )
        with pytest.raises(ValueError, match="cycle"):
            _ = Manufactured(states, ("a",), "x", ("0",), "e1**2").expected_value

    @pytest.mark.parametrize("value", ["cos(x**2)", "cos(x)*x*sin(x**3)"])
    def test_waves_of_nonlinear_phase(self, value):
        with pytest.raises(ValueError, match="not linear"):
            _ = Manufactured((NextState("x", "x", (-1, 1), "1"),), ("a",), value, ("0",), "e1**2").expected_value


class TestCaseTexts:
    """The case text states the same problem as the numbers: law and cost read back from the tables of the case."""

    @staticmethod
    def linear_law(problem):
        """Read A, B, the noise covariance and the Hessian of the cost off a linear-quadratic control problem."""
        d, m = problem.state_dimension, problem.action_dimension
        points = np.vstack([np.zeros(d + m), np.eye(d + m)])
        tables = problem.action_tables(points[:, :d], points[:, None, d:], 0)
        cell = problem.cell_tables(points[:, :d])
        # x' = mean + coupling x' + noise
        through = np.linalg.inv(np.eye(d) - cell.coupling[0])
        columns = (tables.mean[1:, 0] - tables.mean[0, 0]) @ through.T
        noise = through * cell.noise[0]
        return columns[:d].T, columns[d:].T, noise @ noise.T

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_vector_problem(self, rank):
        exact = random_vector_problem(4, rank=rank)
        case = Case.from_text(exact.case_text(9, "auto"))
        a, b, covariance = self.linear_law(case.problem)
        assert np.allclose(a, exact.state_matrix, rtol=0, atol=1e-12)
        assert np.allclose(b, exact.action_matrix, rtol=0, atol=1e-12)
        assert np.allclose(covariance, exact.noise_covariance, rtol=0, atol=1e-6)
        rng = np.random.default_rng(0)
        x, u = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
        cost = case.problem.action_tables(x, u[:, None, :], 0).cost[:, 0]
        expected = np.einsum("ki,ij,kj->k", x, exact.state_cost, x) + np.einsum("ki,ij,kj->k", u, exact.action_cost, u)
        assert np.allclose(cost, expected, rtol=1e-12)

    @pytest.mark.parametrize("sites", [1, 2, 5])
    def test_oscillator_ring(self, sites):
        ring = OscillatorRing(sites)
        case = Case.from_text(ring.case_text(solver={"kind": "neural"}))
        a, b, covariance = self.linear_law(case.problem)
        exact = ring.linear_quadratic
        assert np.allclose(a, exact.state_matrix, rtol=0, atol=1e-12)
        assert np.allclose(b, exact.action_matrix, rtol=0, atol=1e-12)
        assert np.allclose(covariance, exact.noise_covariance, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("name", MANUFACTURED)
    def test_manufactured_cost(self, name):
        problem, _ = MANUFACTURED[name]
        case = Case.from_text(problem.case_text(8, "linear"))
        rng = np.random.default_rng(1)
        states = rng.uniform(-2, 2, (5, len(problem.states)))
        actions = rng.uniform(-1, 1, (5, len(problem.actions)))
        cost = case.problem.action_tables(states, actions[:, None, :], 0).cost[:, 0]
        sides = [TestManufactured().sides(name, state, action)[1] for state, action in zip(states, actions, strict=True)]
        assert np.allclose(cost, sides, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize(
        "text",
        [
            ScalarLQ().case_text(),
            TorusRegulator(2).case_text(16),
            AutoRegression().case_text(),
            HeatBathPendulum().case_text({"theta": 200, "omega": "aligned"}),
            DoubleWell().case_text(policy={"particles": 2}, flow={"method": "rk4"}),
        ],
        ids=["lq", "torus", "autoregression", "heat bath", "double well"],
    )
    def test_texts_are_cases(self, text):
        case = Case.from_text(text)
        assert Case.from_text(case.to_text()) == case
