"""Parsing YAML files into recipes, experiments and studies."""
