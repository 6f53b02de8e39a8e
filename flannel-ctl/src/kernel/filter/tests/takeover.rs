//! From flannel's rules to ours.
