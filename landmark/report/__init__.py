"""Pages and pictures of rankings and training runs."""
