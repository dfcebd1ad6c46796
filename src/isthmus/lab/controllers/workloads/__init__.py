"""Controllers of what makes pods: pure functions from what is seen to what is to be done, each in a module of its
own.
"""
