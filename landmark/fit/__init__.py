"""Fit models to descriptor stores."""
