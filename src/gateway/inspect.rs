//! Request + connection + state -> Facts. Gathers; never judges.
