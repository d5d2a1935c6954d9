"""Facts about Landsat and its patch datasets: bands, units, quality bits, statistics, indices, label nomenclatures. No I/O."""

from geomoe.landsat.bands import (
    BAND_ALIASES as BAND_ALIASES,
    BANDS as BANDS,
    INDICES as INDICES,
    SENSORS as SENSORS,
    TM_BANDS as TM_BANDS,
    band_name as band_name,
    band_title as band_title,
    check_sensor as check_sensor,
    lacks_coastal as lacks_coastal,
    sensor_bands as sensor_bands,
    sensor_of as sensor_of,
    spectral_indices as spectral_indices,
    with_coastal as with_coastal,
)
from geomoe.landsat.nomenclatures import (
    BIGEARTHNET_CLASSES_19 as BIGEARTHNET_CLASSES_19,
    BIGEARTHNET_CLASSES_43 as BIGEARTHNET_CLASSES_43,
    BIGEARTHNET_DROPPED as BIGEARTHNET_DROPPED,
    CORINE_TO_19 as CORINE_TO_19,
    EUROSAT_CLASSES as EUROSAT_CLASSES,
)
from geomoe.landsat.statistics import STATISTICS as STATISTICS, Statistics as Statistics
from geomoe.landsat.units import (
    NODATA as NODATA,
    REFLECTANCE_OFFSET as REFLECTANCE_OFFSET,
    REFLECTANCE_SCALE as REFLECTANCE_SCALE,
    UNITS as UNITS,
    dn_to_reflectance as dn_to_reflectance,
    is_cloud as is_cloud,
    level1_to_reflectance as level1_to_reflectance,
    reflectance_to_dn as reflectance_to_dn,
)
