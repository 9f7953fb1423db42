//! Sandboxes, endpoints, drivers, tunnels, firewall and load balancing.
