"""The phases of the agent as tasks: objective, evaluators and pictures over the models."""
