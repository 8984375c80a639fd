"""The Dockerfile carried out without a container engine: `python -m tests.image DIRECTORY`."""
