"""Deploy steps of `prefect.yaml`, and example jobs. Prefect entry points."""
