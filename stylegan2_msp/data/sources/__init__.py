"""Where samples come from: generated points, scikit-learn's digits, MNIST, a folder of images."""
