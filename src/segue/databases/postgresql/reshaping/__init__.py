"""Live moves between tables of different shapes: touched keys are logged, their rows carried by expressions."""
