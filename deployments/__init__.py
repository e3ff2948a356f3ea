"""Prefect entry points: the deploy steps of `prefect.yaml`, and example jobs."""
