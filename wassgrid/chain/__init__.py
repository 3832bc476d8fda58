"""The Markov chain of a policy: recurrent classes, stationary law, fundamental matrix, spectrum."""
