"""A command of this package: ``swift slope X1 Y1 X2 Y2``."""


def main(arguments):
    x1, y1, x2, y2 = map(float, arguments)
    print((y2 - y1) / (x2 - x1))
    return 0
