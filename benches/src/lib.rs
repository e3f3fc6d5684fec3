//! Benchmarks of the engine and its parts: see `benches/`.
