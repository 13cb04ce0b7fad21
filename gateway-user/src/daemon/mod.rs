//! The daemon: publishes, holds, re-attaches, reloads and stops.
