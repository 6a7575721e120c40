"""Where large results go beside Redis."""
