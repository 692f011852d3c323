"""A third party's task type."""
