//! Node certificates, join tokens, TLS configurations with live reload.
