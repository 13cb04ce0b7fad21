//! Generations: a table in the kernel, tested before it is published.
