"""The command line: each verb is a few lines over the library.

Exit status: 0 done (and [expect] met), 1 finished but not converged or [expect] missed, 2 bad input (one line on
stderr, nothing written), 130 interrupted by Ctrl-C and 143 by SIGTERM (the result file is complete and can be resumed).
"""

# No `from __future__ import annotations` and no heavy import here: Typer reads the annotations, and help must be quick.
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from wassgrid.errors import WassgridError
from wassgrid.interrupt import Interrupt
from wassgrid.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from wassgrid.observers.recorder import Recorder
    from wassgrid.ranks import Ranks

LONGEST_LINE = 2000  # characters of a message
DONE, UNCONVERGED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Stochastic optimal control in the Wasserstein geometry: policies as action particles on a grid of states.",
    epilog="Exit status: 0 done, 1 not converged or [expect] missed, 2 bad input, 130 interrupted (can be resumed).",
)

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Result file.  [default: CASE's name, .h5]")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a value of the case; repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
CaseFile = Annotated[Path, typer.Argument(metavar="CASE", help="Case file (TOML).", show_default=False)]
ResultPath = Annotated[Path, typer.Argument(metavar="FILE", help="Result file (HDF5).", show_default=False)]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"wassgrid {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)]


@app.callback()
def _options(context: typer.Context, version: Version = False) -> None:
    from wassgrid.ranks import started

    if started()[0] > 1:
        _join(context.invoked_subcommand or "")


_SHARED = ("run", "resume")  # verbs that several processes do together


def _join(verb: str) -> None:
    """Take part in what several processes do together; refuse a verb that they would each do for themselves."""
    global _ranks
    from wassgrid.ranks import Ranks, started

    count, own = started()
    try:
        if verb not in _SHARED:
            raise WassgridError(f"mpiexec: {count} processes would each do '{verb}': start one, or share 'run' or 'resume'")
        _ranks = Ranks.world()
    except WassgridError:
        if own == 0:
            raise
        raise typer.Exit(BAD_INPUT) from None  # the first process says why
    if _ranks.size == 1:
        raise WassgridError(f"mpiexec: its {count} processes do not find each other: mpi4py needs the MPI that mpiexec is of")


_ranks: "Ranks | None" = None  # the processes that share this command, where there are several
_PATIENCE = 20.0  # seconds that a process which fails waits for the others, which then fail alike


@app.command()
def run(case: CaseFile, output: Output = None, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Solve a case and write the result file.

    An earlier result of that name is kept beside the new one, as NAME.1.h5. Ctrl-C ends the run within a second or two,
    with the last whole step; 'wassgrid resume' goes on from there.
    """
    from wassgrid.case import Case
    from wassgrid.observers.recorder import Recorder

    def create() -> "Recorder":
        loaded = Case.load(case, overrides or ())
        return Recorder.create(output or Path(f"{loaded.name}.h5"), loaded)

    if _ranks is not None:
        _solve_together(_ranks, create, quiet)
    _solve(create, quiet)


@app.command()
def sweep(
    case: CaseFile,
    values: Annotated[
        list[str], typer.Option("--set", metavar="SECTION.KEY=A,B,...", help="Values of a key; repeatable: all combinations.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder.  [default: CASE_sweep]")] = None,
    quiet: Quiet = False,
) -> None:
    """Solve a case for every combination of values: a result file each, a table (sweep.csv) and a figure (sweep.png).

    The same command goes on after an interruption: what is solved is not solved again. Exit status 1 where a run failed or did
    not reach what the case asks for.
    """
    from wassgrid.sweep import Row, Sweep, SweepInterrupted

    found = Sweep.of(case, values, output)

    def seen(row: Row) -> None:
        if not quiet:
            words = ", ".join(f"{key}={value}" for key, value in row.values.items())
            text = f"J = {row.objective:.10g}, {row.status}" if row.status != "failed" else f"failed: {row.reason}"
            _say(f"{len(found.rows)}/{len(found.points)}  {words}: {text}")

    try:
        found.solve(seen)
    except SweepInterrupted as error:
        _leave(error.status, f"interrupted after {len(found.rows)} of {len(found.points)} runs; the same command goes on")
    from wassgrid import plotting

    table, figure = found.write_table(), found.folder / "sweep.png"
    plotting.save(plotting.sweep(found), figure)
    if not quiet:
        print(found.table(), table, figure, sep="\n")
    if not found.complete:
        short = sum(not row.complete for row in found.rows)
        _leave(UNCONVERGED, f"{short} of {len(found.rows)} runs failed or did not reach what the case asks for")
    raise typer.Exit(DONE)


@app.command()
def resume(file: ResultPath, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Go on with an interrupted, killed or stopped run from its last checkpoint.

    The finished file holds the same numbers as an uninterrupted run's. --set may change how long the run goes on
    (flow.stop, neural.steps) and what is stored (output), not what is solved.
    """
    from wassgrid.case.stored import case_of
    from wassgrid.observers.recorder import Recorder
    from wassgrid.runs.solvers import SOLVERS
    from wassgrid.storage import ResultFile

    if _ranks is not None:
        _solve_together(_ranks, lambda: Recorder.resume(file, overrides or ()), quiet)
    with ResultFile(file) as result:
        # what opening needs is imported here, where a signal ends at once: a file that is being opened is waited for
        case = case_of(result)
        SOLVERS[case.solver.kind].layout(case)
    _solve(lambda: Recorder.resume(file, overrides or ()), quiet)


@app.command()
def new(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Name of the case: NAME.toml is written.", show_default=False)],
    template: Annotated[str, typer.Option("--template", "-t", metavar="KIND", help="What kind of problem.")] = "continuous",
) -> None:
    """Write a commented case file to begin with; it can be solved as it is.

    KIND is one of:
    continuous (two states in continuous time, average cost),
    discrete (one state in discrete time, average cost),
    discounted (one state in discrete time, discounted cost from a start on),
    goal (one state in discrete time, total cost until a goal),
    values (one state in discrete time, an action from a list).
    """
    from wassgrid.case.starter import TEMPLATES, starter
    from wassgrid.storage.whole import write_new

    if not name.name:
        raise typer.BadParameter(f"expected the name of a case, got '{name}'", param_hint="NAME")
    if template not in TEMPLATES:
        raise typer.BadParameter(f"expected one of {', '.join(TEMPLATES)}, got '{template}'", param_hint="--template")
    path = name if name.suffix == ".toml" else Path(f"{name}.toml")
    write_new(path, starter(path.stem, template).encode("utf-8", "replace"))
    print(path)
    print(f"to go on: wassgrid check {path}, wassgrid run {path}")


@app.command()
def functions() -> None:
    """List everything that expressions of a case may use."""
    from wassgrid.problem.functions import listed

    rows = listed()
    width = max(len(form) for form, _ in rows)
    for form, meaning in rows:
        print(f"{form:<{width}}  {meaning}")


@app.command()
def check(
    case: CaseFile,
    overrides: Overrides = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Print grids (and time steps) that resolve the noise.")] = False,
) -> None:
    """Check a case without solving it: memory, time, noise resolution, recurrent classes, derivatives.

    Findings are ok, warn (the run goes through, its result is to be doubted) or FAILED (exit status 1).
    """
    from wassgrid.case import Case
    from wassgrid.check import Finding, findings, suggestions, title
    from wassgrid.observers.progress import CompilationNotice
    from wassgrid.report import resolution_table

    loaded, console, passed = Case.load(case, overrides or ()), _console(), True
    console.print(title(loaded), style="bold", highlight=False, markup=False)
    with CompilationNotice(_console(stderr=True)):
        for found in findings(loaded):
            if isinstance(found, Finding):
                console.print(found.part)
                passed = passed and found.passed
            else:
                console.print(resolution_table(list(found)))
    if suggest:
        for found in suggestions(loaded):
            console.print(found.part)
    raise typer.Exit(DONE if passed else UNCONVERGED)


@app.command()
def info(file: ResultPath) -> None:
    """Tell how the run of a result file ended, its numbers, what else the file holds, and where it comes from."""
    from wassgrid.report import print_info
    from wassgrid.storage import ResultFile

    with ResultFile(file) as result:
        print_info(result, _console())


@app.command()
def plot(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files (HDF5).", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the figures.")] = Path("."),
    at: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...", help="State through which maps of 3 and more states are slices.  [most frequent]"),
    ] = None,
) -> None:
    """Draw convergence, policy, stationary law, value and particle trajectories as PNG; several files are compared."""
    from wassgrid import plotting
    from wassgrid.closed_loop import read_state

    through = None if at is None else read_state(at, "--at")
    for name, figure in plotting.figures(files, through).items():
        path = output / f"{name}.png"
        plotting.save(figure, path)
        print(path)


@app.command()
def animate(
    file: ResultPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Film, GIF or MP4.  [default: FILE's name, .gif]")] = None,
    frames: Annotated[int, typer.Option(min=2, max=2000, help="Frames at most, evenly chosen.")] = 100,
    rate: Annotated[int | None, typer.Option(min=1, max=60, help="Frames per second.  [default: by their number]")] = None,
) -> None:
    """Show a run as a film: particles over one state, maps of the mean action over two, and J over the steps."""
    from wassgrid import plotting

    print(plotting.animate(file, output, frames, rate))


@app.command()
def report(
    file: ResultPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Page.  [default: FILE's name, .html]")] = None,
) -> None:
    """Write one page on a run: verdict in words, numbers, figures, case and provenance, in HTML that loads nothing."""
    from wassgrid.page import write_page

    print(write_page(file, output))


@app.command()
def compare(
    first: ResultPath,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Result file of the same problem.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FIGURE", help="Figure.")] = Path("comparison.png"),
    points: Annotated[int, typer.Option(min=2, max=100_000, help="Policies along the geodesic that are evaluated.")] = 21,
) -> None:
    """Compare the policies of two result files: distance, J along the geodesic between them, and where one loses.

    One of them may be of a neural run: its policy is put on the grid of the other.
    """
    from wassgrid import plotting
    from wassgrid.compare import compare as compare_files
    from wassgrid.report import print_rows

    output = plotting.figure_path(output)  # before any work is done
    found = compare_files(first, second, points)
    print_rows(_console(), found.rows())
    plotting.save(plotting.comparison(found), output)
    print(output)


@app.command()
def simulate(
    file: ResultPath,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each chain that are counted.  [default: 2000, with --from 200]")
    ] = None,
    chains: Annotated[int, typer.Option(min=2, help="Independent chains.")] = 256,
    burn_in: Annotated[int | None, typer.Option(min=0, help="Steps left out before.  [default: a fifth]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="An environment of Gymnasium to run the policy in: returns of its episodes.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in --env.")] = 100,
    observe: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE=TEXT", help="A state from the numbers o0, o1, ... of --env: 'angle=atan2(o1, o0)'."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="NAME=VALUE,...", help="Start every chain in this state and follow it.")
    ] = None,
    figure: Annotated[bool, typer.Option("--plot", help="With --from: draw states, actions and cost in time.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FIGURE", help="With --plot: its file.  [default: FILE's name, _closed_loop.png]"),
    ] = None,
) -> None:
    """Simulate the closed loop with the computed policy: Monte Carlo cost with standard error beside J.

    With --from theta=pi,omega=0 the chains start there, and what they do in time is told, and drawn with --plot.
    """
    if figure and start is None:
        raise typer.BadParameter("goes with --from", param_hint="--plot")
    if output is not None and not figure:
        raise typer.BadParameter("goes with --plot", param_hint="--output")
    if start is not None and env is not None:
        raise typer.BadParameter("goes without --env", param_hint="--from")
    if env is not None:
        from wassgrid.environment import evaluate_file

        print(evaluate_file(file, env, episodes, seed, observe or []).describe())
        return
    if observe:
        raise typer.BadParameter("goes with --env", param_hint="--observe")
    if start is not None:
        _follow(file, start, steps or 200, chains, seed, figure, output)
        return
    from wassgrid.simulate import simulate_file

    steps = steps or 2000
    estimate, objective = simulate_file(file, steps, chains, steps // 5 if burn_in is None else burn_in, seed)
    print(estimate.describe(objective))


def _follow(file: Path, start: str, steps: int, chains: int, seed: int, figure: bool, output: Path | None) -> None:
    from wassgrid.closed_loop import simulate_from

    if figure:
        from wassgrid import plotting

        output = plotting.figure_path(output or Path(f"{file.stem}_closed_loop.png"))  # before any work is done
    found = simulate_from(file, start, steps, chains, seed)
    print(found.describe())
    if output is not None:
        plotting.save(plotting.closed_loop(found), output)
        print(output)


@app.command()
def export(
    file: ResultPath,
    to: Annotated[
        str, typer.Option("--to", metavar="npz|c|onnx", help="NumPy arrays, a C99 header, ONNX (neural).", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File.  [default: FILE's name with its ending]")] = None,
) -> None:
    """Write the last policy for use without wassgrid, with its case, units and provenance.

    Both interpolate the mean action as wassgrid does. docs/guide/policies.md shows how NumPy alone reads the archive, which holds
    the particles too; the header says how its function is called. A neural policy becomes a model from states, and standard
    normal numbers where it draws, to actions.
    """
    from wassgrid.export import export as export_policy

    path, lost = export_policy(file, to, output)
    print(path)
    if lost:
        print(f"left out: {lost}")


@app.command()
def prove(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Result file (HDF5) or case file (TOML).", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Proof file.  [default: FILE's name, .proof.h5]")] = None,
    width: Annotated[float | None, typer.Option(help="Relative width wanted.  [default: prove.width]")] = None,
    time: Annotated[float | None, typer.Option(help="Seconds.  [default: prove.time]")] = None,
    boundary: Annotated[
        str | None, typer.Option(help="What clamp means: truncate, project or open.  [default: prove.boundary]")
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Prove an interval for the optimal cost of the problem itself, with continuous states.

    Finer attempts follow until the interval is as narrow as wanted or the time is over; exit status 1 where it is not.
    """
    from wassgrid.certificate.continuous.interval import Attempt, ProveError
    from wassgrid.prove import prove_file
    from wassgrid.storage.proof import require_place

    for name, number in (("--width", width), ("--time", time)):
        if number is not None and not number > 0.0:
            raise ProveError(f"prove: {name}: expected a positive number, got {number}")
    if boundary not in (None, "truncate", "project", "open"):
        raise ProveError(f"prove: --boundary: expected truncate, project or open, got {boundary!r}")

    def seen(attempt: Attempt) -> None:
        if not quiet:
            found = f"{attempt.seconds:7.1f} s  {attempt.enclosure.cells:>9} cells  [{attempt.low:.10g}, {attempt.high:.10g}]"
            print(found, file=sys.stderr, flush=True)

    path = output or Path(f"{file.stem}.proof.h5")
    require_place(path)  # before any work is done
    proof = prove_file(file, tuple(overrides or ()), width, time, boundary, seen=seen)
    proof.save(path)
    if not quiet:
        print(proof.describe())
        print(f"written to {path}")
    if not proof.reached:
        wide = f"not as narrow as wanted: relative width {proof.relative_width:.2g}"
        _leave(UNCONVERGED, f"{wide}; give more --time, or solver.memory")
    raise typer.Exit(DONE)


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    # a log has no width: lines are not wrapped there
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def _solve(
    open_recorder: "Callable[[], Recorder]", quiet: bool, solved: "Callable[[Recorder, list[Any]], Any] | None" = None,
    wish: Callable[[], None] | None = None,
) -> NoReturn:  # fmt: skip
    """Solve the recorder's case, report, and leave with the exit status of the outcome.

    solved: how, with the observers; wish: what a signal does in the middle of a step, in place of ending it.
    """
    from wassgrid.observers.progress import Notice, shown
    from wassgrid.observers.watches import FinitenessWatch, SignalWatch
    from wassgrid.runs.loop import RunFailedError, RunInterrupted
    from wassgrid.runs.solvers import solve
    from wassgrid.storage import StorageError

    # a file that is being opened must not be left in the middle
    recorder: Recorder | None = None
    watch = SignalWatch(lambda: recorder is None or recorder.busy, wish=wish)
    try:
        # the watch outermost: nothing that a signal raises in between may leave it behind
        with watch, ExitStack() as stack:
            opened = stack.enter_context(open_recorder())
            recorder, path = opened, opened.path
            observers: list[Any] = [FinitenessWatch()]
            if not quiet:
                console = _console(stderr=True)
                if recorder.kept is not None:
                    observers.append(Notice(console, f"the earlier {path.name} is kept as {recorder.kept.name}"))
                observers += stack.enter_context(shown(recorder.case, console))
            with watch.translated():
                observers += [recorder, watch]
                solution = solve(recorder.case, observers, recorder.checkpoint) if solved is None else solved(recorder, observers)
    except (KeyboardInterrupt, RunInterrupted):
        _leave(watch.status, f"interrupted; to go on: wassgrid resume {path}" if recorder else "interrupted")
    except RunFailedError as error:
        _leave(UNCONVERGED, f"the run failed in {error}; '{path}' keeps what came before")
    except StorageError as error:
        if recorder is None or not recorder.started:
            raise
        _leave(UNCONVERGED, f"{error}; the run so far stays in the file: make room, then: wassgrid resume {path}")
    if not quiet:
        from wassgrid.report import print_summary
        from wassgrid.storage import ResultFile

        with ResultFile(path) as result:
            print_summary(result, _console(), None if solution.status == "interrupted" else recorder.case)
        print(f"written to {path}")
    if solution.status == "interrupted":
        _leave(watch.status, f"interrupted; to go on: wassgrid resume {path}")
    from wassgrid.report import expectations

    met, missed = expectations(recorder.case, solution.objective)
    if not solution.complete:
        _leave(UNCONVERGED, f"not converged: {solution.reason}")
    if not met:
        _leave(UNCONVERGED, f"[expect] {'; '.join(missed)}")
    raise typer.Exit(DONE)


def _solve_together(ranks: "Ranks", open_recorder: "Callable[[], Recorder]", quiet: bool) -> NoReturn:
    """Do as `_solve` where several processes share the run: the leader writes and shows, the others follow."""
    from wassgrid.case import Case
    from wassgrid.runs.loop import RunFailedError, RunInterrupted
    from wassgrid.runs.solvers import solve
    from wassgrid.runs.together import Following, Leading, dealt, shared_out, signals_wished
    from wassgrid.transition.threads import TEAM

    TEAM.size = max(1, TEAM.size // ranks.here)
    if ranks.leads:

        def opened() -> "Recorder":
            try:
                recorder = open_recorder()
            except BaseException as error:
                ranks.told(error)
                raise
            ranks.told((recorder.case.to_text(), recorder.case.name))
            return recorder

        def solved(recorder: "Recorder", observers: list[Any]) -> Any:
            with shared_out(ranks, recorder.case):
                return solve(recorder.case, [Leading(ranks, observers)], dealt(recorder.checkpoint))

        _solve(opened, quiet, solved, ranks.wish)
    with signals_wished(ranks):
        told = ranks.told()
        if isinstance(told, BaseException):
            raise told
        case = Case.from_text(*told)
        try:
            with shared_out(ranks, case):
                solution = solve(case, [Following(ranks)], dealt(None))
        except (KeyboardInterrupt, RunInterrupted):
            raise typer.Exit(INTERRUPTED) from None
        except RunFailedError:
            raise typer.Exit(UNCONVERGED) from None
    raise typer.Exit(DONE if solution.complete else UNCONVERGED)


def _leave(status: int, line: str) -> NoReturn:
    _complain(line)
    raise typer.Exit(status)


def _complain(text: str) -> None:
    # of what all processes fail with the first one tells
    together = _ranks is None or _ranks.part(_PATIENCE)
    if _ranks is None or _ranks.leads or not together:
        _say(f"wassgrid: {text}")
    if _ranks is not None and not together:
        _ranks.abort(BAD_INPUT)


def _say(text: str) -> None:
    """Print one line on stderr."""
    from wassgrid.text import shortened, visible

    line = shortened(visible(" ".join(text.split())), LONGEST_LINE)
    with suppress(OSError):  # nobody can be told where stderr is full or closed
        print(line, file=sys.stderr, flush=True)


def _prepare_streams() -> None:
    """Let no output end a run: a stream that was closed swallows it, one that knows fewer letters shows the others escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _drop_output(stream: TextIO) -> None:
    """Send what is left to be printed nowhere: Python would complain of it when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; bad input gives one line on stderr, a defect its traceback."""
    status = _main(arguments)
    if _ranks is not None:
        _ranks.leave()
    try:
        sys.stderr.flush()
    except OSError:
        _drop_output(sys.stderr)
    return status


def _main(arguments: Sequence[str] | None) -> int:
    _prepare_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its fonts are kept, for instance
    if any("\0" in argument for argument in arguments or ()):  # no shell can pass one; some parsers of command lines break on it
        _complain("an argument holds a NUL character, which no path or name can have")
        return BAD_INPUT
    interrupt = Interrupt()
    try:
        with interrupt:
            status = app(args=arguments, prog_name="wassgrid", standalone_mode=False)
        if interrupt.received and status == INTERRUPTED:  # Typer has made a status of it
            raise KeyboardInterrupt
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output(sys.stdout)
        return UNCONVERGED
    except Exception as error:
        if hasattr(error, "format_message"):  # of the parser of the command line
            _complain(f"{error.format_message()} (see wassgrid --help)")
        elif isinstance(error, WassgridError):
            _complain(str(error))
        elif isinstance(error, MemoryError):
            _complain(f"not enough memory: {error}")
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT):
            _drop_output(sys.stdout)
            _complain(f"the output cannot be written: {error.strerror}")
            return UNCONVERGED
        elif interrupt.received:  # what a library made of it on the way
            _complain("interrupted")
            return INTERRUPTED
        elif _ranks is not None:
            import traceback

            traceback.print_exc()
            _ranks.abort(UNCONVERGED)
        else:
            raise
        return BAD_INPUT
