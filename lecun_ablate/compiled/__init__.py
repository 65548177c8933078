"""A user's own components as machine code: traced, translated to C++, compiled, checked."""
