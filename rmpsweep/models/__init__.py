"""Networks that convert well, and how they are trained.

``recipe`` says how to train (no torch needed); ``registry`` builds a network by name, from ``vgg`` and ``resnet`` or a
user's own module; ``external`` finds the libraries' networks and weights, ``published`` what they say of these;
``weights`` reads and writes weights; ``training`` trains.
"""
