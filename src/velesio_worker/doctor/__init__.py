"""What ``velesio-worker doctor`` looks at before a worker is started: it changes nothing and starts no engine."""
