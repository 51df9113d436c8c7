"""Right answers to the exercises, in the styles in which people write them."""
