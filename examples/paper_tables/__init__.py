"""Tables 1 and 2 of the MUNIT paper in miniature."""
