"""What is deployed: the deploy steps of `prefect.yaml`, and example jobs. A door."""
