"""Archives of images or points with classes and MSP: reading, writing, sources, corruptions, annotation."""
