"""A launch, step by step. Nothing here prints: events tell what happens, and return values say what came of it.

In the order of a launch:

``launch``    the main command as a function; it calls all the steps below
``prepare``   opens the images, finds the weights (``weights``) and makes the plan
``look``      reads what the results directory holds and what is missing; ``search`` replays an adaptive search
``compute``   calibrates and evaluates what is missing; ``place`` says where, and ``progress`` writes progress.json
``publish``   makes tables, report and MLflow runs; ``baseline`` checks the ANN's accuracy, and ``pictures`` fetches
              thumbnails

``status`` gathers what `plan` and `status` print, and ``events`` holds the events that a launch tells its caller.
"""
