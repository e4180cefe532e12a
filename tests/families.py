"""A small network of each of timm's families, for tests of what works with all of them."""
import pytest

# One small model of each of timm's modules with convolutions beyond the stem.
SMALL = {
    'byobnet': 'test_byobnet', 'coat': 'coat_tiny', 'convnext': 'test_convnext', 'cspnet': 'cs3darknet_focus_s',
    'cspnext': 'cspnext_tiny', 'dla': 'dla46x_c', 'edgenext': 'edgenext_xx_small', 'efficientformer_v2':
    'efficientformerv2_s0', 'efficientnet': 'test_efficientnet', 'efficientvit_mit': 'efficientvit_b0',
    'efficientvit_msra': 'efficientvit_m0', 'fasternet': 'fasternet_t0', 'fastvit': 'fastvit_t8',
    'ghostnet': 'ghostnet_050', 'inception_next': 'inception_next_atto', 'iformer': 'iformer_t',
    'lcnetv2': 'lcnetv2_small', 'mambaout': 'test_mambaout', 'maxxvit': 'test_coatnet',
    'mobilenetv3': 'mobilenetv3_small_050', 'mobilevit': 'mobilevit_xxs', 'nfnet': 'test_nfnet',
    'regnet': 'regnetx_002', 'repghost': 'repghostnet_050', 'resnet': 'test_resnet', 'starnet': 'starnet_s050',
    'swiftformer': 'swiftformer_xs', 'vision_transformer': 'test_vit', 'vovnet': 'ese_vovnet19b_slim_dw',
}
LARGE = {
    'byoanet': 'halonet_h1', 'convmixer': 'convmixer_768_32', 'cpubone': 'cpubone_nano', 'csatv2': 'csatv2',
    'davit': 'davit_tiny', 'densenet': 'densenet121', 'dpn': 'dpn48b', 'efficientformer': 'efficientformer_l1',
    'efficientvim': 'efficientvim_m1', 'focalnet': 'focalnet_tiny_srf', 'gcvit': 'gcvit_xxtiny',
    'hardcorenas': 'hardcorenas_b', 'hgnet': 'hgnetv2_b0', 'hrnet': 'hrnet_w18_small',
    'inception_resnet_v2': 'inception_resnet_v2', 'inception_v3': 'inception_v3', 'inception_v4': 'inception_v4',
    'levit': 'levit_128s', 'lowformer': 'lowformer_b0', 'metaformer': 'poolformerv2_s12',
    'mobilenetv5': 'mobilenetv5_base', 'nasnet': 'nasnetalarge', 'nest': 'nest_tiny', 'nextvit': 'nextvit_small',
    'pnasnet': 'pnasnet5large', 'rdnet': 'rdnet_tiny', 'repvit': 'repvit_m1',
    'res2net': 'res2next50', 'resnest': 'resnest14d', 'resnetv2': 'resnetv2_18', 'rexnet': 'rexnet_100',
    'selecsls': 'selecsls42', 'senet': 'legacy_seresnet18', 'sequencer': 'sequencer2d_s', 'shvit': 'shvit_s1',
    'sknet': 'skresnet18', 'tiny_vit': 'tiny_vit_5m_224', 'tresnet': 'tresnet_m', 'vgg': 'vgg11',
    'visformer': 'visformer_tiny', 'vitamin': 'vitamin_small_224', 'xception': 'legacy_xception',
    'xception_aligned': 'xception41p',
}
# Networks of linear layers and attention after a patch embedding: what is generated of them is what is generated of
# 'vision_transformer'.
TRANSFORMERS = {
    'beit', 'cait', 'convit', 'crossvit', 'deepseek_vit', 'deit', 'eva', 'gemma4_vit', 'hiera', 'hieradet_sam2',
    'mlp_mixer', 'mvitv2', 'naflexvit', 'pit', 'pvt_v2', 'qwen3_vit', 'swin_transformer', 'swin_transformer_v2',
    'swin_transformer_v2_cr', 'tnt', 'twins', 'vision_transformer_hybrid', 'vision_transformer_relpos',
    'vision_transformer_sam', 'volo', 'xcit',
}
# Plain, grouped, depthwise and standardized convolutions, linear layers and attention, each in the smallest network.
QUICK = {'test_byobnet', 'test_coatnet', 'test_convnext', 'test_efficientnet', 'test_mambaout', 'test_nfnet',
         'test_resnet', 'test_vit', 'regnetx_002', 'efficientvit_b0'}
LARGEST_PREDICTOR = 50_000  # parameters: enough to be wrong, and fast


def slow_unless(quick, *values):
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)
