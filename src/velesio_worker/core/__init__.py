"""What every room may use: settings, logs, metrics, threads. It knows no room."""
