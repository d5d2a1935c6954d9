"""Procedural Landsat-like patches with labels and metadata: data for a first run, for tests, for timing.

A patch is 44 x 44 pixels of 30 m. A landscape (farmland, woodland, town, coast, lake, dry land, marsh) draws its covers;
parcels and noise fields lay them out; each cover mixes a few spectra by its state on that day at that latitude; terrain is
shaded by the sun of that hour; haze, sensor noise, and in some patches a slanted edge without data follow.

Spectra are rounded typical surface reflectances that we chose to agree in level and shape with the curves of the USGS Spectral
Library Version 7 (Kokaly et al. 2017, USGS Data Series 1035) and the ECOSTRESS spectral library (Meerdink et al. 2019, Remote
Sensing of Environment 230); they are not resampled from samples of those libraries. Soil darkens with wetness in the sense of
Lobell and Asner (2002); greenness is double-logistic over the year in the manner of Beck et al. (2006).

Winter and summer crops have the same spectra but green at other weeks, and deciduous forest is bare in winter, so metadata help
to read a patch. They cannot replace looking: covers are drawn at random, with only a mild dependence on latitude.
"""

from geomoe.data.synthetic.scenes import (
    SIZE as SIZE,
    Scene as Scene,
    change_pairs as change_pairs,
    record as record,
    scene as scene,
    sun_elevation as sun_elevation,
)
from geomoe.data.synthetic.spectra import CLASSES as CLASSES, greenness as greenness
