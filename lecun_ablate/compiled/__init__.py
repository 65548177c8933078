"""A user's own activations as machine code: traced, translated to C++, compiled, checked."""
