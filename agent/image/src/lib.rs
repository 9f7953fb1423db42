//! Images: references, content store, archives, unpacking, snapshots.
