"""A web page with a model in it: draw, and see the translation. Static files that any web server can deliver."""
