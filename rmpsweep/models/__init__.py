"""Networks that convert well, and how they are trained.

``recipe`` describes how to train, and needs no torch. ``registry`` builds a network by name, from ``vgg``, ``resnet``
or a user's own module. ``external`` finds the networks and weights of torchvision and timm, and ``published`` the
transforms and accuracies that these libraries state. ``weights`` reads and writes weights. ``training`` trains, with
the weight standardisation of ``standardize`` if the recipe asks for it.
"""
