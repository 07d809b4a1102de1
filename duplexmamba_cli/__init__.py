"""The command `duplexmamba`, which works in any folder once the package is installed."""
