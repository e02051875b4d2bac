"""A cluster in simulated time, run by the real `decide`, `route`, `replicas` and `plan`."""
