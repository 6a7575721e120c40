"""Pictures of the running product for the README and the manual: ``make pictures`` makes them anew.

Owns how a terminal is recorded and drawn (:mod:`tools.pictures.screen`, ``recording``, ``svg``) and what is shown on
each picture. Nothing on them is drawn by hand: the programs run, and what they show is taken.
"""
