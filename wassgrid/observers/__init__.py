"""All that is not mathematics: progress, the result file, signals, numbers that are not finite."""
