//! What limits promise, held against plain models.
