"""The header of an entry, `<number>.xml`, in the schema that EMPIAR publishes; the only module that knows it.

It has the quirks of real headers: an ampersand escaped twice, empty elements.
"""

from dataclasses import dataclass
from xml.etree import ElementTree as ET

_SCHEMA = "https://ftp.ebi.ac.uk/pub/databases/emtest/empiar/schema/empiar.xsd"
_PERSON = {
    "authorORCID": "0000-0000-0000-0001",
    "firstName": "First",
    "lastName": "Author",
    "organization": "Department of Drawings &amp; Other Pictures",  # escaped twice, as real headers are
    "street": "Street 1",
    "townOrCity": "Town",
    "stateOrProvince": "",
    "country": "Nowhere",
    "postOrZipCode": "00000",
}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One image set as its depositor describes it.

    Attributes:
        name: its title.
        directory: the directory of its files, from the entry's root.
        category: in EMPIAR's words, such as `micrographs - single frame`.
        data_format: `MRC`, `MRCS` or `TIFF`.
        count: the number of images, or of tilt series.
        frames: the number of frames in each.
        voxel_type: in EMPIAR's words, such as `32 BIT FLOAT`.
        side: width and height in pixels.
        pixel: width and height of a pixel in Angstrom.
        details: free text.
        micrographs_pattern: a glob from the entry's root; may be empty.
        particles_pattern: the same for picked particles.
        particles_directory: the directory of picked particles; may be empty.
    """

    name: str
    directory: str
    category: str
    data_format: str
    count: int
    frames: int
    voxel_type: str
    side: int
    pixel: float
    details: str = ""
    micrographs_pattern: str = ""
    particles_pattern: str = ""
    particles_directory: str = ""


def xml(number: int, *, title: str, experiment: str, size_bytes: int, image_sets: tuple[ImageSet, ...]) -> bytes:
    """Return the header of entry `number` as UTF-8."""
    entry = ET.Element(
        "entry",
        {
            # written as plain attributes: ElementTree's own namespaces would put a prefix on every element
            "xmlns": "http://pdbe.org/empiar",
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": _SCHEMA,
            "accessionCode": f"EMPIAR-{number}",
            "public": "true",
        },
    )
    _admin(entry, number, title, experiment, size_bytes)
    _references(entry, title)
    for image_set in image_sets:
        _image_set(entry, image_set)
    ET.indent(entry, space="    ")
    text: bytes = ET.tostring(entry, encoding="utf-8", xml_declaration=False)
    return text + b"\n"


def _admin(entry: ET.Element, number: int, title: str, experiment: str, size_bytes: int) -> None:
    admin = ET.SubElement(entry, "admin")
    _text(admin, "currentStatus", "REL")
    dates = ET.SubElement(admin, "keyDates")
    for name in ("depositionDate", "releaseDate", "updateDate"):
        _text(dates, name, "2024-05-17")
    _text(admin, "title", title)
    for role in ("correspondingAuthor", "principalInvestigator"):
        person = ET.SubElement(admin, role)
        for name, value in _PERSON.items():
            _text(person, name, value)
        person.find("organization").set("type", "academic")  # type: ignore[union-attr] # it is in _PERSON
    authors = ET.SubElement(admin, "authorsList")
    _text(authors, "author", "Author A").set("authorORCID", "0000-0000-0000-0001")
    _text(authors, "author", "Author B")
    _text(admin, "datasetSize", f"{size_bytes / 1024**2:.1f}").set("units", "MB")
    _text(admin, "entryDOI", f"10.6019/EMPIAR-{number}")
    _text(admin, "experimentType", experiment)


def _references(entry: ET.Element, title: str) -> None:
    references = ET.SubElement(entry, "crossReferences")
    citations = ET.SubElement(references, "citationList")
    citation = ET.SubElement(ET.SubElement(citations, "universalCitation"), "journalCitation")
    citation.attrib.update({"published": "false", "preprint": "false"})
    _text(citation, "author", "Author A").set("order", "1")
    _text(citation, "author", "Author B").set("order", "2")
    _text(citation, "title", title)
    for name in ("journal", "journalAbbreviation", "country", "issue", "volume", "year"):
        _text(citation, name, "")
    _text(citation, "details", "Made by empiarfs; nothing in this entry was ever measured.")


def _image_set(entry: ET.Element, image_set: ImageSet) -> None:
    element = ET.SubElement(entry, "imageSet")
    _text(element, "name", image_set.name)
    _text(element, "directory", image_set.directory)
    _text(element, "category", image_set.category)
    _text(element, "headerFormat", image_set.data_format)
    _text(element, "dataFormat", image_set.data_format)
    _text(element, "numImagesOrTiltSeries", str(image_set.count))
    _text(element, "framesPerImage", str(image_set.frames))
    _text(element, "voxelType", image_set.voxel_type)
    dimensions = ET.SubElement(element, "dimensions")
    for axis in ("Width", "Height"):
        _text(dimensions, f"image{axis}", str(image_set.side))
        _text(dimensions, f"pixel{axis}", str(image_set.pixel))
    _text(element, "details", image_set.details)
    _text(element, "segmentationList", "")
    _text(element, "micrographsFilePattern", image_set.micrographs_pattern)
    _text(element, "pickedParticlesFilePattern", image_set.particles_pattern)
    _text(element, "pickedParticlesDirectory", image_set.particles_directory)


def _text(parent: ET.Element, name: str, value: str) -> ET.Element:
    child = ET.SubElement(parent, name)
    child.text = value
    return child
