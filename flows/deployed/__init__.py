"""The Prefect flows of the deployments in ``deploy/prefect.yaml``, one per module.

What does the work is imported when it is needed: a server that deploys the flows loads no PyTorch.
"""
