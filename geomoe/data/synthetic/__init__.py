"""Procedural Landsat-like patches with labels and metadata: data for a first run, for tests, for timing.

A patch is a scene of 44 x 44 pixels of 30 m. A landscape (farmland, woodland, town, coast, lake, dry land, marsh) draws its
covers; parcels, noise fields and street grids lay them out; each cover mixes a few spectra by its state on that day at that
latitude; terrain is shaded by the sun of that hour; haze, sensor noise, and in some patches a slanted edge without data follow;
the result is stored as Collection 2 digital numbers.

Spectra: surface reflectance in the seven OLI bands of green and dry vegetation, needle and leaf canopies, soil, sand, roofs and
paving, turbid and clear water. They are rounded typical values that we chose to agree in level and shape (red edge, the dips of
leaf water, the rise of dry soil, the dark infrared of water) with the curves of the USGS Spectral Library Version 7 (Kokaly et
al. 2017, USGS Data Series 1035) and the ECOSTRESS spectral library (Meerdink et al. 2019, Remote Sensing of Environment 230);
they are not resampled from single samples of those libraries. Soil darkening with wetness follows the sense of Lobell and Asner
(2002), and season follows a double-logistic greenness curve in the manner of Beck et al. (2006).

What metadata can and cannot say: winter and summer crops have the same spectra but green at other weeks, and deciduous
forest is bare in winter, so week and latitude help to read a patch. Which covers a patch holds is drawn at random, with only
a mild dependence on latitude (needle forest towards the poles, dry land towards the tropics), so metadata cannot replace
looking.
"""

from geomoe.data.synthetic.scenes import SIZE as SIZE
from geomoe.data.synthetic.scenes import Scene as Scene
from geomoe.data.synthetic.scenes import change_pairs as change_pairs
from geomoe.data.synthetic.scenes import record as record
from geomoe.data.synthetic.scenes import scene as scene
from geomoe.data.synthetic.scenes import sun_elevation as sun_elevation
from geomoe.data.synthetic.spectra import CLASSES as CLASSES
from geomoe.data.synthetic.spectra import greenness as greenness
