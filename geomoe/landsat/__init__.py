"""Facts about Landsat and its patch datasets: bands, units, quality bits, statistics, indices, label nomenclatures. No I/O."""

from geomoe.landsat.bands import (
    BAND_ALIASES as BAND_ALIASES,
    BANDS as BANDS,
    INDICES as INDICES,
    SENSORS as SENSORS,
    TM_BANDS as TM_BANDS,
    band_name as band_name,
    band_numbers as band_numbers,
    band_title as band_title,
    bands_of_file as bands_of_file,
    check_band_names as check_band_names,
    check_sensor as check_sensor,
    is_band as is_band,
    is_other_band as is_other_band,
    lacks_coastal as lacks_coastal,
    repeated_by_reducers as repeated_by_reducers,
    same_bands as same_bands,
    sensor_bands as sensor_bands,
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
from geomoe.landsat.product import (
    Groups as Groups,
    Product as Product,
    check_name as check_name,
    is_hls as is_hls,
    parse_mtl as parse_mtl,
    product_of as product_of,
    sensor_of as sensor_of,
    unit_of_name as unit_of_name,
)
from geomoe.landsat.quality import (
    QUALITY_CLASSES as QUALITY_CLASSES,
    fill_bits as fill_bits,
    is_cloud as is_cloud,
    is_flagged as is_flagged,
)
from geomoe.landsat.statistics import (
    COLLECTION2 as COLLECTION2,
    COMPUTED as COMPUTED,
    STATISTICS as STATISTICS,
    Moments as Moments,
    Statistics as Statistics,
)
from geomoe.landsat.units import (
    FILE_DTYPES as FILE_DTYPES,
    NODATA as NODATA,
    REFLECTANCE_OFFSET as REFLECTANCE_OFFSET,
    REFLECTANCE_SCALE as REFLECTANCE_SCALE,
    SCALED_FILL as SCALED_FILL,
    SCALED_SATURATED as SCALED_SATURATED,
    SCALED_SCALE as SCALED_SCALE,
    SCALED_UNITS as SCALED_UNITS,
    UNITS as UNITS,
    dn_to_reflectance as dn_to_reflectance,
    level1_to_reflectance as level1_to_reflectance,
    nodata_value as nodata_value,
    reflectance_to_dn as reflectance_to_dn,
    unit_of_scale as unit_of_scale,
    unmasked as unmasked,
)
