//! The control protocol: JSON lines over `<run dir>/netd.sock`.
