"""One place where public classes are found by name.

A class is listed here by the module that holds it, so that `import studio` stays light: nothing is
imported before it is used. The names are what `model_index.json` records, and what
`studio.Pipeline.from_pretrained` looks up. Leaves out on purpose: any search of the file system.
"""

import importlib

# name -> module; a new public class is one line here.
CLASSES: dict[str, str] = {
    # front door
    "Pipeline": "studio.pipelines.auto",
    "Request": "studio.pipelines.request",
    # contracts
    "TokenLayout": "studio.outputs",
    "TokenSegment": "studio.outputs",
    "TokenizerOutput": "studio.outputs",
    # tokenizers
    "GridTokenizer": "studio.tokenizers.grid",
    "PrefixTokenizer": "studio.tokenizers.prefix",
    "TiTokTokenizer": "studio.tokenizers.titok",
    "MaskGITTokenizer": "studio.tokenizers.maskgit",
    "WavTokenizer": "studio.tokenizers.wavtokenizer",
    "SpectralTokenizer": "studio.tokenizers.spectral",
    "SemanticTokenizer": "studio.tokenizers.semantic",
    "LanguageCodec": "studio.tokenizers.languagecodec",
    "Vocos": "studio.tokenizers.vocos",
    "CosmosTokenizer": "studio.tokenizers.cosmos",
    "OmniTokenizer": "studio.tokenizers.omnitokenizer",
    "LARPTokenizer": "studio.tokenizers.larp",
    "HiTVideoTokenizer": "studio.tokenizers.hitvideo",
    # generators
    "AutoregressiveTransformer": "studio.generators.autoregressive",
    "MaskedTransformer": "studio.generators.masked",
    "DrafterHead": "studio.generators.drafter_head",
    "CaptionTokenizer": "studio.generators.captions",
    "Guidance": "studio.generators.guidance",
    # decoding
    "Autoregressive": "studio.decoding.autoregressive",
    "Masked": "studio.decoding.masked",
    "Speculative": "studio.decoding.speculative",
    # pipelines
    "TextToImagePipeline": "studio.pipelines.text_to_image",
    "ClassToImagePipeline": "studio.pipelines.class_to_image",
    "ReconstructionPipeline": "studio.pipelines.reconstruction",
    "TextToVideoPipeline": "studio.pipelines.text_to_video",
    "TextToSpeechPipeline": "studio.pipelines.text_to_speech",
    # evaluation
    "Recogniser": "studio.evaluation.recogniser",
    "ImageTextFeatures": "studio.evaluation.features",
}

# The kind of every generator, so that listing models imports no network.
GENERATORS: dict[str, str] = {
    "AutoregressiveTransformer": "ordered",
    "MaskedTransformer": "unordered",
}


def find_class(name: str) -> type:
    """The public class called `name`. Raises KeyError with the known names when there is none."""
    if name not in CLASSES:
        raise KeyError(f"class {name!r} is not one of ours; known: {', '.join(sorted(CLASSES))}")
    return getattr(importlib.import_module(CLASSES[name]), name)
