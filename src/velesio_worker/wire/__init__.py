"""What stands on the wire: jobs and their parameters, events, errors. It stands on nothing."""
