"""What a user asks for: YAML files read into recipes, experiments and studies."""
