"""HTML reports of rankings, and figures of training runs."""
