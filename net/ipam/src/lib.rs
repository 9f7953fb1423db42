//! Address, VNI and port pools.
