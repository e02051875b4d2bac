"""What is built over jobs and models: one way in for jobs, pipelines, batch files."""
