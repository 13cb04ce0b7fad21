//! The feed: Microsoft's published endpoint sets, as immutable snapshots.
