package interop;

import static interop.Main.fails;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/** What brokers do not serve yet is said at once and by name, to whoever asks: no client waits for it. */
final class NotServed {
    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic("t", 1, (short) 1))).all().get();
            for (Map.Entry<String, KafkaFuture<?>> each : byVersion(admin).entrySet()) {
                fails(UnsupportedVersionException.class, each.getKey(), each.getValue());
            }
        }
        System.out.println("OK");
    }

    private static Map<String, KafkaFuture<?>> byVersion(Admin admin) {
        Map<String, KafkaFuture<?>> asked = new LinkedHashMap<>();
        asked.put("describeAcls", admin.describeAcls(AclBindingFilter.ANY).values());
        AclBinding binding = new AclBinding(
            new ResourcePattern(ResourceType.TOPIC, "t", PatternType.LITERAL),
            new AccessControlEntry("User:u", "*", AclOperation.READ, AclPermissionType.ALLOW));
        asked.put("createAcls", admin.createAcls(List.of(binding)).all());
        asked.put("deleteAcls", admin.deleteAcls(List.of(binding.toFilter())).all());
        asked.put("describeClientQuotas", admin.describeClientQuotas(ClientQuotaFilter.all()).entities());
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.USER, "u"));
        var quota = new ClientQuotaAlteration(entity, List.of(new ClientQuotaAlteration.Op("producer_byte_rate", 1.0)));
        asked.put("alterClientQuotas", admin.alterClientQuotas(List.of(quota)).all());
        asked.put("describeUserScramCredentials", admin.describeUserScramCredentials().all());
        var credential = new UserScramCredentialUpsertion("u", new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), "secret");
        asked.put("alterUserScramCredentials", admin.alterUserScramCredentials(List.of(credential)).all());
        asked.put("createDelegationToken", admin.createDelegationToken().delegationToken());
        asked.put("renewDelegationToken", admin.renewDelegationToken(new byte[] {1}).expiryTimestamp());
        asked.put("expireDelegationToken", admin.expireDelegationToken(new byte[] {1}).expiryTimestamp());
        asked.put("describeDelegationToken", admin.describeDelegationToken().delegationTokens());
        asked.put("addRaftVoter", admin.addRaftVoter(9, Uuid.randomUuid(), Set.of()).all());
        asked.put("removeRaftVoter", admin.removeRaftVoter(9, Uuid.randomUuid()).all());
        asked.put("describeShareGroups", admin.describeShareGroups(List.of("g")).all());
        asked.put("describeStreamsGroups", admin.describeStreamsGroups(List.of("g")).all());
        return asked;
    }

    private NotServed() {}
}
